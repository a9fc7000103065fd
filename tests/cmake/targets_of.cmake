# Prints what has to be built for the tests of BUILD that match CHOICE: those programs in their commands that the build system
# makes, one a line. ctest leaves a program that is not built out of its lists for machines; the list for people says that it
# could not be found.
cmake_minimum_required(VERSION 3.21)
get_filename_component(build "${build}" ABSOLUTE)
execute_process(COMMAND ctest --test-dir "${build}" -R "${choice}" --show-only --verbose OUTPUT_VARIABLE tests
                ERROR_VARIABLE tests COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ninja -C "${build}" -t targets all OUTPUT_VARIABLE outputs COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^ \"=;\n]+" words "${tests}")
list(REMOVE_DUPLICATES words)
foreach(word IN LISTS words)
  string(FIND "${word}" "${build}/" inside)
  if(inside EQUAL 0)
    file(RELATIVE_PATH word "${build}" "${word}")
    string(FIND "${outputs}" "\n${word}: CXX_EXECUTABLE_LINKER" made)
    if(NOT made EQUAL -1)
      execute_process(COMMAND "${CMAKE_COMMAND}" -E echo "${word}")
    endif()
  endif()
endforeach()
