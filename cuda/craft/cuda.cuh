// The CUDA engine's bodies, for those who compile with nvcc; from g++ or clang++ link the library craft_cuda instead.
#pragma once

#include "craft/cuda.hpp"
#include "craft/engine/fused.cuh"
#include "craft/engine/nearest.cuh"
#include "craft/engine/parameters.cuh"
#include "craft/engine/rows.cuh"
#include "craft/engine/softmax.cuh"
#include "craft/engine/sweep.cuh"
#include "craft/engine/tensor.cuh"
