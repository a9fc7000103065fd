# Links programs that are compiled without nvcc with the package at PREFIX, which has the GPU engine, and runs them: with a
# GPU all verbs run, without one they must say so. And links one that nvcc compiles: with one CUDA runtime, not two.
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
run("${CMAKE_COMMAND}" -S "${source}/tests/cuda/links" -B "${work}/consumer" -G "${generator}"
    "-DCMAKE_CXX_COMPILER=${compiler}" "-DCMAKE_PREFIX_PATH=${prefix}" "-DCRAFT_VERSION=${version}"
    -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0)
run("${CMAKE_COMMAND}" --build "${work}/consumer")

foreach(name IN ITEMS consumer runtime)
  execute_process(COMMAND "${work}/consumer/${name}" RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  message("${output}")
  if(NOT status EQUAL 0 AND NOT (status EQUAL 2 AND output MATCHES "no CUDA device"))
    message(FATAL_ERROR "${name} ended with ${status}")
  endif()
endforeach()

run("${CMAKE_COMMAND}" -S "${source}/tests/cuda/links/by_nvcc" -B "${work}/by_nvcc" -G "${generator}"
    "-DCMAKE_CXX_COMPILER=${compiler}" "-DCMAKE_CUDA_COMPILER=${nvcc}" "-DCMAKE_PREFIX_PATH=${prefix}" "-DCRAFT_VERSION=${version}"
    -DCMAKE_CUDA_ARCHITECTURES=90)
run("${CMAKE_COMMAND}" --build "${work}/by_nvcc")
foreach(runtime IN ITEMS Static Shared)
  run("${work}/by_nvcc/${runtime}")
  # The static one is in the program, the shared one is what it asks for.
  file(STRINGS "${work}/by_nvcc/${runtime}" shared REGEX "libcudart\\.so\\.[0-9]+")
  if((runtime STREQUAL "Static" AND shared) OR (runtime STREQUAL "Shared" AND NOT shared))
    message(FATAL_ERROR "linked with CUDA_RUNTIME_LIBRARY ${runtime}, a program asks for: ${shared}")
  endif()
endforeach()
