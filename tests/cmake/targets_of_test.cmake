# tests/run NAME must know what to build before anything is built.
cmake_minimum_required(VERSION 3.21)
file(REMOVE_RECURSE "${folder}")
file(WRITE "${folder}/main.cpp" "int main() {}\n")
file(WRITE "${folder}/CMakeLists.txt" "cmake_minimum_required(VERSION 3.21)
project(names LANGUAGES CXX)
enable_testing()
add_executable(first main.cpp)
add_executable(second main.cpp)
add_executable(third main.cpp)
add_test(NAME some/first COMMAND first --quick)
add_test(NAME some/second COMMAND \${CMAKE_COMMAND} -E env program=$<TARGET_FILE:second> true)
add_test(NAME other COMMAND third)
")
execute_process(COMMAND "${CMAKE_COMMAND}" -G Ninja -S "${folder}" -B "${folder}/build" "-DCMAKE_CXX_COMPILER=${compiler}"
                OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${CMAKE_COMMAND}" -D "build=${folder}/build" -D "choice=^some/"
                        -P "${CMAKE_CURRENT_LIST_DIR}/targets_of.cmake"
                OUTPUT_VARIABLE found COMMAND_ERROR_IS_FATAL ANY)
if(NOT found STREQUAL "first\nsecond\n")
  message(FATAL_ERROR "found: ${found}")
endif()
