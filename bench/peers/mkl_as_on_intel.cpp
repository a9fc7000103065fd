// Preloaded into the tuned contestants that compute with Intel's MKL, which is what torch comes with. MKL asks this
// function whether the processor is Intel's, and keeps its widest kernels to itself if it is not, whatever the
// processor can do: on AMD's with AVX-512 products are less than half as fast. With this it goes by what the processor
// can do. On Intel's it changes nothing.
extern "C" int mkl_serv_intel_cpu_true() { return 1; }
