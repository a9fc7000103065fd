# Builds and installs the library with its GPU engine, links programs that are compiled without nvcc, and runs them: with a
# GPU all verbs run, without one they must say so.
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
# One architecture, which a GPU of this machine may be newer than: then the driver compiles what it needs.
run("${CMAKE_COMMAND}" -S "${source}" -B "${work}/library" -G "${generator}" -DCRAFT_CUDA=ON -DCRAFT_CUDA_LIBRARY=ON
    -DCRAFT_TESTS=OFF -DCRAFT_EXAMPLES=OFF "-DCMAKE_CUDA_COMPILER=${nvcc}" "-DCMAKE_CXX_COMPILER=${compiler}"
    -DCMAKE_CUDA_ARCHITECTURES=80 "-DCMAKE_INSTALL_PREFIX=${work}/prefix")
run("${CMAKE_COMMAND}" --build "${work}/library" --target install)
run("${CMAKE_COMMAND}" -S "${source}/tests/cuda/links" -B "${work}/consumer" -G "${generator}"
    "-DCMAKE_CXX_COMPILER=${compiler}" "-DCMAKE_PREFIX_PATH=${work}/prefix" "-DCRAFT_VERSION=${version}"
    -DCMAKE_BUILD_TYPE=Debug)
run("${CMAKE_COMMAND}" --build "${work}/consumer")

foreach(name IN ITEMS consumer runtime)
  execute_process(COMMAND "${work}/consumer/${name}" RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  message("${output}")
  if(NOT status EQUAL 0 AND NOT (status EQUAL 2 AND output MATCHES "no CUDA device"))
    message(FATAL_ERROR "${name} ended with ${status}")
  endif()
endforeach()
