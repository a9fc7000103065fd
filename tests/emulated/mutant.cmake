# Puts one fault into a copy of cuda/craft and builds mutants.cpp against it: that must fail in at least one order of
# threads, and print `expected` if that is given, or the tests of the emulated device would let such a fault through. The copy
# without a fault must pass in all.
cmake_minimum_required(VERSION 3.21)

if(mutant STREQUAL "no_barrier_in_panel")  # column sums are read while other warps still write theirs
  set(file engine/sweep.cuh)
  set(from [==[ = column_sums.v[c];
    __syncthreads();
]==])
  set(to [==[ = column_sums.v[c];
]==])
elseif(mutant STREQUAL "lost_update")  # two threads add to one double, in whatever order they load and store
  set(file engine/sweep.cuh)
  set(from [==[told.triangle ? std::max<index_t>(p.i0 + p.ni - p.j0, 0) : 0,]==])
  set(to [==[index_t(0),]==])
elseif(mutant STREQUAL "no_barrier_in_block_sum")  # the sums of other warps are not there yet
  set(file engine/launch.cuh)
  set(from [==[  __syncthreads();
  V total(0);
]==])
  set(to [==[  V total(0);
]==])
elseif(mutant STREQUAL "swapped_leading_dimensions")  # right for square operands
  set(file engine/product.cuh)
  set(from "lda = std::max<index_t>(a.d, 1), ldb = std::max<index_t>(b.d, 1)")
  set(to "lda = std::max<index_t>(b.d, 1), ldb = std::max<index_t>(a.d, 1)")
elseif(mutant STREQUAL "one_row_too_many")  # writes a row beyond the panel, and its sum over another block's
  set(file engine/sweep.cuh)
  set(from [==[from + rows_each < p.ni ? rows_each : p.ni - from;]==])
  set(to [==[from + rows_each < p.ni + 1 ? rows_each : p.ni + 1 - from;]==])
elseif(NOT mutant STREQUAL "none")
  message(FATAL_ERROR "no mutant ${mutant}")
endif()

file(REMOVE_RECURSE "${work}")
file(COPY "${source}/cuda/craft" DESTINATION "${work}/cuda")
if(NOT mutant STREQUAL "none")
  set(file "${work}/cuda/craft/${file}")
  file(READ "${file}" text)
  string(FIND "${text}" "${from}" first)
  string(FIND "${text}" "${from}" last REVERSE)
  if(first EQUAL -1 OR NOT first EQUAL last)
    message(FATAL_ERROR "${file} must contain this once:\n${from}")
  endif()
  string(REPLACE "${from}" "${to}" text "${text}")
  file(WRITE "${file}" "${text}")
endif()

set(program "${work}/mutants")
execute_process(COMMAND "${compiler}" -std=c++${standard} ${flags} -DCRAFT_TEST_CUDA -I "${source}/tests/emulated/include"
                        -I "${source}/tests/emulated" -I "${source}/tests" -I "${source}/include" -I "${work}/cuda"
                        -isystem "${eigen}" "${source}/tests/emulated/mutants.cpp" -o "${program}"
                RESULT_VARIABLE status ERROR_VARIABLE output)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "it does not compile:\n${output}")
endif()

set(noticed)
foreach(order IN ITEMS forward reverse shuffled)
  set(ENV{CRAFT_EMULATED_ORDER} ${order})
  execute_process(COMMAND ${launcher} "${program}" RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    string(FIND "${output}" "${expected}" at)
    if(at GREATER_EQUAL 0)
      list(APPEND noticed ${order})
    endif()
    message("${order}: ${status}\n${output}")
    if(expected AND noticed)
      break()
    endif()
  endif()
endforeach()
if(mutant STREQUAL "none" AND noticed)
  message(FATAL_ERROR "fails without a fault: ${noticed}")
elseif(NOT mutant STREQUAL "none" AND NOT noticed)
  message(FATAL_ERROR "the fault went unnoticed")
endif()
message("noticed in: ${noticed}")
