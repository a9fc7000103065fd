# The README shows examples/quickstart.cpp to the letter.
#   cmake -D source=PROJECT -P readme.cmake
file(READ "${source}/README.md" readme)
file(READ "${source}/examples/quickstart.cpp" quickstart)
string(FIND "${readme}" "```cpp\n${quickstart}```" at)
if(at EQUAL -1)
  message(FATAL_ERROR "README.md and examples/quickstart.cpp differ")
endif()
string(REGEX MATCHALL "\n" lines "${quickstart}")
list(LENGTH lines count)
if(count GREATER_EQUAL 60)
  message(FATAL_ERROR "examples/quickstart.cpp has ${count} lines, it should stay under 60")
endif()
