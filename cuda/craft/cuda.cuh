// The CUDA engine's bodies, for those who compile with nvcc; from g++ or clang++ link the library craft_cuda instead.
#pragma once

#include "craft/cuda.hpp"
#include "craft/engine/launch.cuh"
#include "craft/engine/rows.cuh"
#include "craft/engine/pairs.cuh"
#include "craft/engine/fused.cuh"
