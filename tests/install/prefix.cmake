# Configures the library for users (no test, no example, no CUDA), beside an Eigen 5 and an Eigen that is too old, installs
# it, and compares what lies in the prefix with what should.
cmake_minimum_required(VERSION 3.21)
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
file(REMOVE_RECURSE "${work}")
file(MAKE_DIRECTORY "${work}")
set(configure "${CMAKE_COMMAND}" -S "${source}" -G "${generator}" "-DCMAKE_CXX_COMPILER=${compiler}" -DCRAFT_TESTS=OFF
    -DCRAFT_EXAMPLES=OFF -DCRAFT_CUDA=OFF "-DCMAKE_MODULE_PATH=${source}/tests/install/no_cuda")

stand_in_for_eigen(3.3.9)
refused("craft needs Eigen 3.4 or newer, found 3.3.9" ${configure} -B "${work}/old" "-DEigen3_DIR=${eigen_dir}")
stand_in_for_eigen(5.0.1)
run(${configure} -B "${work}/build" "-DEigen3_DIR=${eigen_dir}")
run("${CMAKE_COMMAND}" --install "${work}/build" --prefix "${work}/prefix")

# All of include/craft with the adapters, whatever its files are called.
file(GLOB_RECURSE expected RELATIVE "${source}" "${source}/include/craft/*")
foreach(file IN ITEMS craft-config.cmake craft-config-version.cmake craft-targets.cmake)
  list(APPEND expected "share/cmake/craft/${file}")
endforeach()
list(APPEND expected share/doc/craft/LICENSE share/pkgconfig/craft.pc)
file(GLOB_RECURSE installed RELATIVE "${work}/prefix" LIST_DIRECTORIES false "${work}/prefix/*")
list(SORT expected)
list(SORT installed)
if(NOT installed STREQUAL expected)
  set(missing ${expected})
  list(REMOVE_ITEM missing ${installed})
  list(REMOVE_ITEM installed ${expected})
  message(FATAL_ERROR "not installed: ${missing}\nnot expected: ${installed}")
endif()

# The prefix may be moved: nothing in it knows where it was made.
foreach(file IN LISTS installed)
  file(READ "${work}/prefix/${file}" text)
  foreach(place IN ITEMS "${source}" "${work}")
    # As a whole path: a checkout may lie in /craft, and the package in share/cmake/craft.
    string(REGEX REPLACE "([][+.*()^$?|\\\\])" "\\\\\\1" escaped "${place}")
    if(text MATCHES "(^|-[IL]|[^A-Za-z0-9_.}/-])${escaped}([^A-Za-z0-9_.-]|$)")
      message(FATAL_ERROR "${file} has the path ${place} in it")
    endif()
  endforeach()
endforeach()
