# Runs the README's lines for a CMake project, which stand in find_package/ and fetch_content/ here: configured, built, run.
#   cmake -D source=PROJECT -D build=ITS_BUILD -D work=FOLDER -D generator=G -D compiler=CXX -D standard=17 -P link_it.cmake
cmake_minimum_required(VERSION 3.21)
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  message("${output}")
  if(NOT status EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command}: ${status}")
  endif()
endfunction()

file(REMOVE_RECURSE "${work}")
run("${CMAKE_COMMAND}" --install "${build}" --prefix "${work}/prefix")
foreach(way IN ITEMS find_package fetch_content)
  file(COPY "${source}/tests/docs/${way}" DESTINATION "${work}")
  file(WRITE "${work}/${way}/trainer.cpp" "#include <craft/view.hpp>\nint main() { return craft::matrix_view<float>().rows() == 0 ? 0 : 1; }\n")
  file(CREATE_LINK "${source}" "${work}/${way}/craft" SYMBOLIC)
  run("${CMAKE_COMMAND}" -S "${work}/${way}" -B "${work}/${way}_build" -G "${generator}" "-DCMAKE_CXX_COMPILER=${compiler}"
      "-DCMAKE_CXX_STANDARD=${standard}" "-DCMAKE_PREFIX_PATH=${work}/prefix")
  run("${CMAKE_COMMAND}" --build "${work}/${way}_build")
  run("${work}/${way}_build/trainer")
endforeach()
