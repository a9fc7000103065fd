# The folder that tests/gpu --build makes for a machine where nothing is built: an install component, so that programs are
# stripped and find their libraries relative to themselves, or where the CUDA toolkit has them.

# __FILE__ and what else a compiler writes of its sources' names are relative to the project: programs then do not say
# where they were built, and messages are shorter.
if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=>"
                      "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=>")
endif()
# A fifth of the size: what is carried to a GPU machine is limited.
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-Xfatbin=-compress-all>")

# craft_gpu_folder(COMPONENT targets...): programs to bin, libraries to lib, with those of other projects that a GPU machine
# has not got; `cmake --install` without the component leaves them alone.
function(craft_gpu_folder component)
  if(NOT TARGET ${component})
    add_custom_target(${component})
  endif()
  set_target_properties(${ARGN} PROPERTIES INSTALL_RPATH
                        "$ORIGIN/../lib;/usr/local/cuda/lib64;/usr/local/cuda/targets/x86_64-linux/lib")
  foreach(target IN LISTS ARGN)
    install(TARGETS ${target} RUNTIME_DEPENDENCY_SET ${target}_needs
            RUNTIME DESTINATION bin COMPONENT ${component} EXCLUDE_FROM_ALL
            LIBRARY DESTINATION lib COMPONENT ${component} EXCLUDE_FROM_ALL)
    install(RUNTIME_DEPENDENCY_SET ${target}_needs PRE_INCLUDE_REGEXES "^libbenchmark" "^libgomp" "^libCatch2"
            PRE_EXCLUDE_REGEXES "." LIBRARY DESTINATION lib COMPONENT ${component} EXCLUDE_FROM_ALL)
  endforeach()
  add_dependencies(${component} ${ARGN})
endfunction()

# What it holds beside programs, in the places of the checkout.
function(craft_gpu_folder_files component)
  install(PROGRAMS "${PROJECT_SOURCE_DIR}/tests/gpu" DESTINATION tests COMPONENT ${component} EXCLUDE_FROM_ALL)
  file(GLOB scripts CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/cuda/gpu_*.py")
  install(FILES ${scripts} DESTINATION tests/cuda COMPONENT ${component} EXCLUDE_FROM_ALL)
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/tests/reference" DESTINATION tests COMPONENT ${component} EXCLUDE_FROM_ALL)
  install(FILES "${PROJECT_SOURCE_DIR}/bench/gpu.py" DESTINATION bench COMPONENT ${component} EXCLUDE_FROM_ALL)
  install(FILES "${PROJECT_SOURCE_DIR}/bench/peers/gpu_peers.py" "${PROJECT_SOURCE_DIR}/bench/peers/triton_mmd.py"
                "${PROJECT_SOURCE_DIR}/bench/peers/workers.py"
          DESTINATION bench/peers COMPONENT ${component} EXCLUDE_FROM_ALL)
endfunction()
