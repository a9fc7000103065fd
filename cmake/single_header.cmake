# Writes all of craft as one header: craft/craft.hpp and what it includes, each header once, with the licence. Without the
# GPU engine and the adapters, which need the folder include/craft.
#
#     cmake -D output=build/craft.hpp -P cmake/single_header.cmake
cmake_minimum_required(VERSION 3.21)
get_filename_component(source "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
if(NOT output)
  message(FATAL_ERROR "where to? cmake -D output=FILE -P single_header.cmake")
endif()

# Appends `header` to the property `text` after those it includes, if it is not there yet. All lines that include another
# header of craft stand before the header's own code, so that they can go.
function(add header)
  get_property(added GLOBAL PROPERTY added)
  if(header IN_LIST added)
    return()
  endif()
  set_property(GLOBAL APPEND PROPERTY added "${header}")
  file(READ "${source}/include/${header}" code)
  # There is no GPU engine here, even where craft/cuda.hpp is at hand: it includes headers that stand in this file.
  string(REPLACE "#if __has_include(\"craft/cuda.hpp\")\n#include \"craft/cuda.hpp\"\n#endif\n" "" code "${code}")
  string(REPLACE "__has_include(\"craft/cuda.hpp\")" "0  // craft/cuda.hpp" code "${code}")
  string(REPLACE "#pragma once\n" "" code "${code}")
  while(code MATCHES "(^|\n)(#include \"([^\"]+)\"\n)")
    set(line "${CMAKE_MATCH_2}")
    set(included "${CMAKE_MATCH_3}")
    string(REPLACE "${line}" "" code "${code}")
    add("${included}")
  endwhile()
  set_property(GLOBAL APPEND_STRING PROPERTY text "\n// ---- ${header} ----\n\n${code}")
endfunction()
add(craft/craft.hpp)

file(STRINGS "${source}/CMakeLists.txt" version REGEX "^project\\(craft VERSION ")
string(REGEX REPLACE "^project\\(craft VERSION ([0-9.]+).*" "\\1" version "${version}")
file(READ "${source}/LICENSE" licence)
string(STRIP "${licence}" licence)
string(REPLACE "\n" "\n// " licence "// ${licence}")
string(REPLACE "// \n" "//\n" licence "${licence}")
get_property(text GLOBAL PROPERTY text)
file(WRITE "${output}" "// craft ${version} in one header, made by cmake/single_header.cmake: not to be edited, and not to be mixed with "
     "the headers\n// of include/craft.\n//\n${licence}\n#pragma once\n${text}")
