# run(COMMAND...): runs it, shows what it says, and fails if it does; `output` is what it said.
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  message("${output}")
  if(NOT status EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command}: ${status}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# refused(MESSAGE COMMAND...): the same for a command that must fail with that message, a regular expression in which a
# space stands for any white space (CMake breaks the lines of its messages).
function(refused message)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  message("${output}")
  list(JOIN ARGN " " command)
  if(status EQUAL 0)
    message(FATAL_ERROR "not refused: ${command}")
  endif()
  string(REGEX REPLACE "[ \n]+" " " said "${output}")
  if(NOT said MATCHES "${message}")
    message(FATAL_ERROR "${command} does not say why it fails: ${message}")
  endif()
endfunction()

# The stand-in of an Eigen of that version below `work`, for CMake and pkg-config: `eigen_dir` is where Eigen3Config.cmake
# lies. Only what concerns versions; Eigen's own package says SameMajorVersion, too.
function(stand_in_for_eigen version)
  include(CMakePackageConfigHelpers)
  set(dir "${work}/eigen-${version}")
  file(WRITE "${dir}/Eigen3Config.cmake" "if(NOT TARGET Eigen3::Eigen)\n  add_library(Eigen3::Eigen INTERFACE IMPORTED)\nendif()\n")
  write_basic_package_version_file("${dir}/Eigen3ConfigVersion.cmake" VERSION ${version} COMPATIBILITY SameMajorVersion
                                   ARCH_INDEPENDENT)
  file(WRITE "${dir}/eigen3.pc" "Name: Eigen3\nDescription: stand-in\nVersion: ${version}\nCflags: -I${dir}\n")
  set(eigen_dir "${dir}" PARENT_SCOPE)
endfunction()
