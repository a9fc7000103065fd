# A case says on its first line what the compiler must answer ("// error: ..."). It has to compile as it stands, and with
# -DWRONG, which swaps in the one wrong line, to fail with that answer, before any other error and in less than 30 lines.
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
string(REGEX MATCH "error: [^\n]*" first "${answer}")
string(FIND "${first}" "${expected}" at)
if(at EQUAL -1)
  message(FATAL_ERROR "expected as the first error: ${expected}\n${answer}")
endif()
string(REGEX MATCHALL "\n" lines "${answer}")
list(LENGTH lines count)
if(count GREATER 30 AND NOT compiler MATCHES "clang")  # which tells every file that included the header
  message(FATAL_ERROR "the answer is ${count} lines long:\n${answer}")
endif()
