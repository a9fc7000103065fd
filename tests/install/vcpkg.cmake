# Runs the port of cmake/packaging/vcpkg with stand-ins for vcpkg's functions, which configure and install as vcpkg does and
# insist on what it insists on; and compares vcpkg.json with the project.
cmake_minimum_required(VERSION 3.21)
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
file(REMOVE_RECURSE "${work}")
set(port_dir "${source}/cmake/packaging/vcpkg/craft")

# ---- the manifest ----

file(READ "${port_dir}/vcpkg.json" manifest)
function(expect value)
  string(JSON found ERROR_VARIABLE error GET "${manifest}" ${ARGN})
  if(NOT found STREQUAL value)
    message(FATAL_ERROR "vcpkg.json: ${ARGN} is ${found}, not ${value}")
  endif()
endfunction()
expect(craft name)
expect("${version}" version)
expect(MIT license)
expect(eigen3 dependencies 0)
expect(cuda features cuda dependencies 0)
foreach(helper IN ITEMS 1 2)  # a helper port brings functions to the portfile
  expect(ON dependencies ${helper} host)
endforeach()

# ---- vcpkg's part ----

set(PORT craft)
set(TARGET_TRIPLET stand-in)

function(vcpkg_check_features)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" OUT_FEATURE_OPTIONS FEATURES)
  list(POP_FRONT arg_FEATURES feature option)
  set(value OFF)
  if(feature IN_LIST FEATURES)
    set(value ON)
  endif()
  set(${arg_OUT_FEATURE_OPTIONS} "-D${option}=${value}" PARENT_SCOPE)
endfunction()

function(vcpkg_cmake_configure)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" SOURCE_PATH OPTIONS)
  set_property(GLOBAL PROPERTY configured ${arg_OPTIONS})
  # CUDA last and off: the feature's toolkit need not be here.
  run("${CMAKE_COMMAND}" -S "${arg_SOURCE_PATH}" -B "${work}/build" -G "${generator}" ${arg_OPTIONS} -DCRAFT_CUDA=OFF
      "-DCMAKE_CXX_COMPILER=${compiler}" "-DCMAKE_INSTALL_PREFIX=${CURRENT_PACKAGES_DIR}" -DCMAKE_BUILD_TYPE=Release)
endfunction()

function(vcpkg_cmake_install)
  run("${CMAKE_COMMAND}" --build "${work}/build" --target install)
endfunction()

function(vcpkg_cmake_config_fixup)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" CONFIG_PATH "")
  if(NOT EXISTS "${CURRENT_PACKAGES_DIR}/${arg_CONFIG_PATH}/craft-config.cmake")
    message(FATAL_ERROR "there is no package in ${arg_CONFIG_PATH}")
  endif()
  file(RENAME "${CURRENT_PACKAGES_DIR}/${arg_CONFIG_PATH}" "${CURRENT_PACKAGES_DIR}/share/${PORT}")
endfunction()

function(vcpkg_fixup_pkgconfig)
  if(NOT EXISTS "${CURRENT_PACKAGES_DIR}/share/pkgconfig/craft.pc")
    message(FATAL_ERROR "there is no craft.pc")
  endif()
endfunction()

function(vcpkg_install_copyright)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" FILE_LIST)
  foreach(file IN LISTS arg_FILE_LIST)
    file(READ "${file}" text)
    file(APPEND "${CURRENT_PACKAGES_DIR}/share/${PORT}/copyright" "${text}")
  endforeach()
endfunction()

# ---- the port, without and with its feature ----

foreach(cuda IN ITEMS OFF ON)
  set(FEATURES core)
  if(cuda)
    list(APPEND FEATURES cuda)
  endif()
  set(CURRENT_PACKAGES_DIR "${work}/packages/${cuda}")
  include("${port_dir}/portfile.cmake")
  get_property(configured GLOBAL PROPERTY configured)
  foreach(option IN ITEMS -DCRAFT_CUDA=${cuda} -DCRAFT_TESTS=OFF -DCRAFT_EXAMPLES=OFF)
    if(NOT option IN_LIST configured)
      message(FATAL_ERROR "with the features ${FEATURES} it is configured with ${configured}, without ${option}")
    endif()
  endforeach()
  if(NOT VCPKG_BUILD_TYPE STREQUAL "release")
    message(FATAL_ERROR "headers are built twice")
  endif()

  # What vcpkg checks afterwards: a copyright, headers, the package in share/PORT, nothing empty, nothing elsewhere.
  file(GLOB_RECURSE found LIST_DIRECTORIES true RELATIVE "${CURRENT_PACKAGES_DIR}" "${CURRENT_PACKAGES_DIR}/*")
  foreach(path IN ITEMS share/craft/copyright share/craft/usage share/craft/craft-config.cmake include/craft/craft.hpp)
    if(NOT path IN_LIST found)
      message(FATAL_ERROR "the package lacks ${path}")
    endif()
  endforeach()
  foreach(path IN LISTS found)
    file(GLOB below "${CURRENT_PACKAGES_DIR}/${path}/*")
    if(IS_DIRECTORY "${CURRENT_PACKAGES_DIR}/${path}" AND NOT below)
      message(FATAL_ERROR "${path} is empty")
    endif()
    if(NOT path MATCHES "^(include(/craft.*)?|share|share/craft.*|share/pkgconfig.*)$")
      message(FATAL_ERROR "${path} has no place in a package")
    endif()
  endforeach()
endforeach()
