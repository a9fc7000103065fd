# examples/shift finds a shift where there is one and none where there is none, in the same numbers on any number of
# threads, and says what is wrong with its arguments.
#   cmake -D program=SHIFT -D data=FEATURES -D work=FOLDER -P shift.cmake
cmake_minimum_required(VERSION 3.21)

function(run_shift json)
  execute_process(COMMAND "${program}" ${ARGN} --permutations 99 --json "${work}/${json}" RESULT_VARIABLE result
                  OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "shift ${ARGN}: ${output}")
  endif()
endfunction()
function(expect_number json low high)
  file(READ "${work}/${json}" text)
  string(JSON value GET "${text}" ${ARGN})
  if(NOT (value GREATER_EQUAL low AND value LESS_EQUAL high))
    message(FATAL_ERROR "${json}: ${ARGN} is ${value}, expected ${low} to ${high}")
  endif()
endfunction()

run_shift(shifted.json "${data}/normal.npy" "${data}/normal_shifted.npy" --threads 1 --out "${work}/picture")
run_shift(threads.json "${data}/normal.npy" "${data}/normal_shifted.npy" --threads 3)
run_shift(same.json "${data}/normal.npy" "${data}/normal_again.npy" --kernel energy --rows 40 --top 2)
file(READ "${work}/shifted.json" one)
file(READ "${work}/threads.json" three)
if(NOT one STREQUAL three)
  message(FATAL_ERROR "one thread and three give other numbers")
endif()
expect_number(shifted.json 0.01 0.01 p_value)
expect_number(shifted.json 0.1 1 mmd2 unbiased)
expect_number(shifted.json 60 60 source rows)
expect_number(same.json 0.1 1 p_value)
expect_number(same.json 40 40 source rows)
file(READ "${work}/same.json" text)
string(JSON listed LENGTH "${text}" rows target)
if(NOT listed EQUAL 2)
  message(FATAL_ERROR "--top 2 lists ${listed} rows")
endif()
file(READ "${work}/picture/shift.svg" picture)
if(NOT picture MATCHES "^<svg.*</svg>\n$" OR picture MATCHES "nan|inf[^o]")
  message(FATAL_ERROR "shift.svg is not a picture")
endif()

foreach(case IN ITEMS "expected SOURCE and TARGET;" "nothing.npy. cannot be opened;nothing.npy;nothing.npy"
                      "expected a matrix;${data}/normal.npy;${data}/labels.npy"
                      "3 columns, .* has 4;${data}/normal.npy;${data}/f4.npy"
                      "unknown argument --what;${data}/normal.npy;${data}/normal.npy;--what"
                      "--kernel. expected;${data}/normal.npy;${data}/normal.npy;--kernel;what"
                      "--bandwidth. expected;${data}/normal.npy;${data}/normal.npy;--bandwidth;0"
                      "no member what;${data}/normal.npy;${data}/normal.npy;--member;what")
  list(POP_FRONT case expected)
  execute_process(COMMAND "${program}" ${case} RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE error)
  if(NOT result EQUAL 1 OR NOT error MATCHES "^shift: .*(${expected})")
    message(FATAL_ERROR "shift ${case}: exit ${result}, ${error}")
  endif()
endforeach()
