// The library called with numbers of two bytes, which it computes in float.
#include "losses_calls.hpp"

template void fuzz::call_as<Eigen::half>(const test_case&, const exact_answer&, library_answer&);
template void fuzz::call_as<Eigen::bfloat16>(const test_case&, const exact_answer&, library_answer&);
