# Compiles the library for one architecture with warnings as errors, and reads what ptxas reports of each kernel into
# WORK/kernels.md. Fails if a kernel keeps registers in memory (spills). For sm_80 the library is built and installed at
# WORK/prefix by its own CMake files. With PTX, the PTX of an older architecture, only that is compiled.
cmake_minimum_required(VERSION 3.21)
set(report)
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  set(report "${report}${output}" PARENT_SCOPE)
  if(NOT status EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "it does not compile for sm_${arch}: ${command}: ${status}\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE "${work}")
file(MAKE_DIRECTORY "${work}")
# As CMakeLists.txt has it for the library: Eigen marks its own functions for the device in ways that nvcc warns of.
set(strict -Werror all-warnings -diag-suppress=20011,20012,20013,20014,20015 -Xptxas -v)
if(ptx)
  # PTX for one architecture stands for others as long as no source asks which one it is compiled for. nvcc's own
  # optimiser does: it is another one from sm_100 on. By nvcc 13.0, PTX for sm_90 is that for sm_80 but for one
  # instruction, in the toolkit's conversion of a bfloat16 to float; that for sm_120 is that for sm_100.
  file(GLOB_RECURSE sources "${source}/include/*.hpp" "${source}/cuda/*")
  foreach(file IN LISTS sources)
    file(READ "${file}" text)
    # To refuse an architecture that is too old is another thing.
    string(REGEX REPLACE "#if defined\\(__CUDA_ARCH__\\) && __CUDA_ARCH__ < 800\n#error" "" text "${text}")
    if(text MATCHES "__CUDA_ARCH|NV_IF_|NV_DISPATCH_TARGET|NV_TARGET")
      message(FATAL_ERROR "${file} depends on the architecture (${CMAKE_MATCH_0}): then each needs PTX of its own")
    endif()
  endforeach()
elseif(arch EQUAL 80)
  # An architecture which a GPU of this machine may be newer than: then the driver compiles the PTX in the library. The
  # host's code is not what is looked at here, hence -O0: kernels are optimised as always.
  list(JOIN strict " " flags)
  run("${CMAKE_COMMAND}" -S "${source}" -B "${work}/build" -G "${generator}" -DCRAFT_CUDA=ON -DCRAFT_CUDA_LIBRARY=ON
      -DCRAFT_TESTS=OFF -DCRAFT_EXAMPLES=OFF "-DCMAKE_CUDA_COMPILER=${nvcc}" "-DCMAKE_CXX_COMPILER=${compiler}"
      -DCMAKE_CUDA_ARCHITECTURES=${arch} "-DCMAKE_CUDA_FLAGS=${flags} --keep --keep-dir \"${work}\""
      "-DCMAKE_CUDA_FLAGS_RELEASE=-O0 -DNDEBUG" "-DCMAKE_INSTALL_PREFIX=${work}/prefix")
  set(report) # what trying the compiler has said
  run("${CMAKE_COMMAND}" --build "${work}/build" --target install)
else()
  set(ptx "${work}/craft_cuda.ptx")
  run("${nvcc}" -std=c++17 -O1 -DNDEBUG -I "${source}/include" -I "${source}/cuda" -isystem "${eigen}" ${strict}
      -gencode "arch=compute_${arch},code=compute_${arch}" -ptx "${source}/cuda/craft_cuda.cu" -o "${ptx}")
endif()
if(ptx)
  run("${nvcc}" -arch sm_${arch} ${strict} -cubin "${ptx}" -o "${work}/craft_cuda.cubin")
endif()
file(WRITE "${work}/ptxas.log" "${report}")

# Names as they are in the source, where there is a c++filt; it reads a name a line.
string(REGEX MATCHALL "Compiling entry function '[^']+'" names "${report}")
string(REGEX REPLACE "Compiling entry function '([^']+)'" "\\1" names "${names}")
list(LENGTH names count)
if(count EQUAL 0)
  message(FATAL_ERROR "no kernels in the report:\n${report}")
endif()
find_program(filter c++filt)
set(readable ${names})
if(filter)
  list(JOIN names "\n" lines)
  file(WRITE "${work}/names.txt" "${lines}\n")
  execute_process(COMMAND "${filter}" -p INPUT_FILE "${work}/names.txt" OUTPUT_VARIABLE readable
                  OUTPUT_STRIP_TRAILING_WHITESPACE)
  string(REPLACE "craft::engine::" "" readable "${readable}")
  string(REPLACE "craft::" "" readable "${readable}")
  string(REPLACE "\n" ";" readable "${readable}")
endif()

# One after the other: name, stack and spills, registers.
string(REGEX MATCHALL "[0-9]+ bytes stack frame, [0-9]+ bytes spill stores, [0-9]+ bytes spill loads[^U]*Used [0-9]+ registers[^\n]*"
       numbers "${report}")
list(LENGTH numbers others)
if(NOT others EQUAL count)
  message(FATAL_ERROR "${count} kernels, but the numbers of ${others}: has ptxas changed its report?\n${report}")
endif()
set(table "| kernel, sm_${arch} | registers | stack, bytes | static shared memory, bytes |\n|---|---|---|---|\n")
set(most 0)
set(spills)
foreach(name numbers IN ZIP_LISTS readable numbers)
  string(REGEX MATCH "([0-9]+) bytes stack frame, ([0-9]+) bytes spill stores, ([0-9]+) bytes spill loads" match "${numbers}")
  set(stack ${CMAKE_MATCH_1})
  if(NOT "${CMAKE_MATCH_2} ${CMAKE_MATCH_3}" STREQUAL "0 0")
    list(APPEND spills "${name}: ${match}")
  endif()
  string(REGEX MATCH "Used ([0-9]+) registers" match "${numbers}")
  set(registers ${CMAKE_MATCH_1})
  set(shared 0)
  if(numbers MATCHES "([0-9]+) bytes smem")
    set(shared ${CMAKE_MATCH_1})
  endif()
  if(registers GREATER most)
    set(most ${registers})
    set(at "${name}")
  endif()
  string(APPEND table "| `${name}` | ${registers} | ${stack} | ${shared} |\n")
endforeach()
file(WRITE "${work}/kernels.md" "${table}")
message("sm_${arch}: ${count} kernels, at most ${most} registers (${at}); all of them in ${work}/kernels.md")
if(spills)
  list(JOIN spills "\n  " spills)
  message(FATAL_ERROR "spilled registers:\n  ${spills}")
endif()
