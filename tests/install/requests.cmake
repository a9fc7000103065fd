# What find_package(craft) answers to versions, components and versions of Eigen, asked of the `prefix` that prefix.cmake
# has installed.
cmake_minimum_required(VERSION 3.21)
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
file(REMOVE_RECURSE "${work}")
file(COPY "${prefix}/" DESTINATION "${work}/prefix")
set(ask "${CMAKE_COMMAND}" -S "${source}/tests/install/requests" -B "${work}/build" -G "${generator}"
    "-DCMAKE_PREFIX_PATH=${work}/prefix")
set(no_cuda "-DCMAKE_MODULE_PATH=${source}/tests/install/no_cuda")

# found(ANSWER REQUEST OPTION...), not_found(MESSAGE REQUEST OPTION...): of a build folder that knows nothing.
function(found answer request)
  file(REMOVE_RECURSE "${work}/build")
  run(${ask} "-DREQUEST=${request}" ${ARGN})
  if(NOT output MATCHES "${answer}")
    message(FATAL_ERROR "find_package(craft ${request}) should have answered: ${answer}")
  endif()
endfunction()
function(not_found message request)
  file(REMOVE_RECURSE "${work}/build")
  refused("${message}" ${ask} "-DREQUEST=${request}" ${ARGN})
endfunction()

# ---- versions: before 1.0 a minor version may change the interface ----

stand_in_for_eigen(5.0.1)
set(eigen "-DEigen3_DIR=${eigen_dir}" ${no_cuda})
string(REGEX MATCH "^([0-9]+)\\.([0-9]+)" minor "${version}")
set(major "${CMAKE_MATCH_1}")
math(EXPR before "${CMAKE_MATCH_2} - 1")
math(EXPR next "${CMAKE_MATCH_2} + 1")
found("craft ${version};" "REQUIRED" ${eigen})
found("craft ${version};" "${minor}\;REQUIRED" ${eigen})
found("craft ${version};" "${version}\;EXACT\;REQUIRED" ${eigen})
not_found("craft-config.cmake, version: ${version}" "9\;REQUIRED" ${eigen})
not_found("craft-config.cmake, version: ${version}" "${major}.${next}\;REQUIRED" ${eigen})
if(before GREATER_EQUAL 0)
  not_found("craft-config.cmake, version: ${version}" "${major}.${before}\;REQUIRED" ${eigen})
endif()

# ---- components ----

not_found("craft has no component gpu, only cuda" "REQUIRED\;COMPONENTS\;gpu" ${eigen})
not_found("craft has no component gpu, only cuda" "REQUIRED\;COMPONENTS\;gpu\;OPTIONAL_COMPONENTS\;cuda" ${eigen})
found("cuda \"FALSE\", gpu \"FALSE\"" "REQUIRED\;OPTIONAL_COMPONENTS\;cuda\;gpu" ${eigen})
not_found("no component cuda: it was configured without CRAFT_CUDA" "REQUIRED\;COMPONENTS\;cuda" ${eigen})
# Installed with the component, but no toolkit here; who asks for nothing does not need it.
file(WRITE "${work}/prefix/share/cmake/craft/craft-cuda-targets.cmake" "message(FATAL_ERROR \"not asked for\")\n")
found("craft ${version};" "REQUIRED" ${eigen})
set(no_toolkit "-DEigen3_DIR=${eigen_dir}" -DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON)
not_found("component cuda of craft needs the CUDA toolkit 12 or newer" "REQUIRED\;COMPONENTS\;cuda" ${no_toolkit})
found("cuda \"FALSE\"" "REQUIRED\;OPTIONAL_COMPONENTS\;cuda" ${no_toolkit})

# ---- Eigen: 5 as well as 3.4, nothing older, whoever found it first ----

found("; Eigen 5.0.1;" "REQUIRED" ${eigen} -DEIGEN_FIRST=ON)
stand_in_for_eigen(3.4.0)
found("; Eigen 3.4.0;" "REQUIRED" "-DEigen3_DIR=${eigen_dir}" ${no_cuda})
stand_in_for_eigen(3.3.9)
foreach(first IN ITEMS OFF ON)
  not_found("craft needs Eigen 3.4 or newer, found 3.3.9" "REQUIRED" "-DEigen3_DIR=${eigen_dir}" ${no_cuda}
            -DEIGEN_FIRST=${first})
endforeach()
