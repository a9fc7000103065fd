// Calls the CUDA runtime by the library's headers.
#include "craft/cuda.hpp"

int main() { return craft::cuda_devices() < 0; }
