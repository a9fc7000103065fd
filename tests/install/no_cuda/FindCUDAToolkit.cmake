# Found in the place of CMake's own module where nothing of CUDA was asked for.
message(FATAL_ERROR "the CUDA toolkit is looked for")
