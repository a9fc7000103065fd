# Builds and runs tests/install/consumer.cpp the `way` a consumer would: find_package, fetch_content or copied.
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
file(MAKE_DIRECTORY "${work}")
if(way STREQUAL "copied")
  file(COPY "${source}/include/craft" DESTINATION "${work}/include")
  run("${compiler}" -std=c++${standard} -I "${work}/include" -isystem "${eigen}" -DWITH_OPENMP=0
      "${source}/tests/install/consumer.cpp" -o "${work}/consumer")
  run("${work}/consumer")
  return()
endif()

if(way STREQUAL "find_package")
  run("${CMAKE_COMMAND}" --install "${build}" --prefix "${work}/prefix")
  set(craft "-DCMAKE_PREFIX_PATH=${work}/prefix" "-DCRAFT_VERSION=${version}")
else()
  set(craft "-DCRAFT_SOURCE=${source}")
endif()
run("${CMAKE_COMMAND}" -S "${source}/tests/install" -B "${work}/build" -G "${generator}" "-DWAY=${way}" ${craft}
    "-DCMAKE_CXX_COMPILER=${compiler}" "-DCMAKE_CXX_STANDARD=${standard}"
    "-DCRAFT_OPENMP=${openmp}" "-DWITH_OPENMP=${openmp}")
run("${CMAKE_COMMAND}" --build "${work}/build")
run("${work}/build/consumer")
