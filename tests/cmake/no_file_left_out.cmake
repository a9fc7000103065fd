# Fails if a source under the folders is built by no target (the list of `built` sources is written at configure time),
# a header of tests or examples is included by none of them, or a public header is missing from craft/craft.hpp and the list of
# verbs that it includes.
cmake_minimum_required(VERSION 3.21)
file(STRINGS "${built}" built_sources)
set(left_out)

foreach(folder IN LISTS folders)
  file(GLOB_RECURSE files "${source}/${folder}/*.cpp" "${source}/${folder}/*.cc" "${source}/${folder}/*.cu"
       "${source}/${folder}/*.hpp" "${source}/${folder}/*.h" "${source}/${folder}/*.cuh" "${source}/${folder}/*.inc")
  set(text)
  foreach(file IN LISTS files)
    file(STRINGS "${file}" includes REGEX "^ *# *include *\"")
    foreach(line IN LISTS includes)
      string(REGEX REPLACE ".*\"(.*)\".*" "\\1" line "${line}")
      get_filename_component(name "${line}" NAME)
      list(APPEND text "${name}")
    endforeach()
  endforeach()
  foreach(file IN LISTS files)
    get_filename_component(name "${file}" NAME)
    if(NOT file IN_LIST built_sources AND (file MATCHES "\\.(cpp|cc|cu)$" OR folder STREQUAL include
                                           OR NOT name IN_LIST text))
      list(APPEND left_out "${file}: built by no target")
    endif()
  endforeach()
endforeach()

file(GLOB headers RELATIVE "${source}/include" "${source}/include/craft/*.hpp")
list(REMOVE_ITEM headers craft/craft.hpp)
file(READ "${source}/include/craft/craft.hpp" umbrella)
file(READ "${source}/include/craft/verbs.hpp" verbs)
foreach(header IN LISTS headers)
  string(FIND "${umbrella}${verbs}" "#include \"${header}\"" at)
  if(at EQUAL -1)
    list(APPEND left_out "${header}: neither in craft/craft.hpp nor in craft/verbs.hpp")
  endif()
endforeach()

if(left_out)
  list(JOIN left_out "\n  " left_out)
  message(FATAL_ERROR "Left out (CMakeLists.txt of the folder has the list):\n  ${left_out}")
endif()
