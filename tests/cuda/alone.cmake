# Includes one header of cuda/ twice and nothing before it: by nvcc, and a plain one by the host compiler too. Nothing is
# linked, so the host compiler only reads.
cmake_minimum_required(VERSION 3.21)
file(REMOVE_RECURSE "${work}")
set(file "${work}/alone.cu")
file(WRITE "${file}" "#include \"${header}\"\n#include \"${header}\"\n")
function(compile)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${header} does not compile alone:\n${output}")
  endif()
endfunction()
set(includes -I "${source}/include" -I "${source}/cuda" -isystem "${eigen}")
compile("${nvcc}" -std=c++17 ${includes} -gencode arch=compute_90,code=sm_90 -Werror all-warnings
        -Xcompiler -fsyntax-only -c "${file}" -o "${work}/alone.o")
if(header MATCHES "\\.hpp$")
  compile("${compiler}" -std=c++17 -x c++ -Wall -Wextra -Werror ${includes} -isystem "${toolkit}" -fsyntax-only "${file}")
endif()
