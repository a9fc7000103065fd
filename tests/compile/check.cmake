# A case says on its first line what the compiler must answer ("// error: ..."). It has to compile as it stands, and with
# -DWRONG, which swaps in the one wrong line, to fail with that answer.
cmake_minimum_required(VERSION 3.21)
set(ENV{LC_ALL} C)
file(READ "${case}" text)  # not file(STRINGS): a message may contain semicolons
if(NOT text MATCHES "^// error: ([^\n]+)\n")
  message(FATAL_ERROR "${case}: the first line must be \"// error: what the compiler answers\"")
endif()
set(expected "${CMAKE_MATCH_1}")
set(compile "${compiler}" -std=c++${standard} -fsyntax-only -I "${include}" -isystem "${eigen}" "${case}")

execute_process(COMMAND ${compile} RESULT_VARIABLE status ERROR_VARIABLE answer)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "the right call does not compile:\n${answer}")
endif()
execute_process(COMMAND ${compile} -DWRONG RESULT_VARIABLE status ERROR_VARIABLE answer)
if(status EQUAL 0)
  message(FATAL_ERROR "the wrong call compiles")
endif()
string(FIND "${answer}" "${expected}" at)
if(at EQUAL -1)
  message(FATAL_ERROR "expected in the answer: ${expected}\n${answer}")
endif()
