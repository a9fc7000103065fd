# Compiles pair_function.cu for one architecture: without a warning where Eigen is kept from marking its own functions for
# the device, which nvcc warns of, and as it stands, then without optimisation: what is generated has been seen by then.
cmake_minimum_required(VERSION 3.21)
file(MAKE_DIRECTORY "${work}")
set(compile "${nvcc}" -std=c++17 -I "${source}/include" -I "${source}/cuda" -isystem "${eigen}"
    -gencode arch=compute_90,code=sm_90 -c "${CMAKE_CURRENT_LIST_DIR}/pair_function.cu" -o "${work}/pair_function.o")
foreach(options IN ITEMS "-DEIGEN_NO_CUDA;-Werror;all-warnings" "-Xcicc;-O0;-Xptxas;-O0;-Xcompiler;-fsyntax-only")
  execute_process(COMMAND ${compile} ${options} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "with \"${options}\":\n${output}")
  endif()
endforeach()
