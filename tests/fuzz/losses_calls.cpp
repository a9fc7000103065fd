// The library called in float and double.
#include "losses_calls.hpp"

template void fuzz::call_as<float>(const test_case&, const exact_answer&, library_answer&);
template void fuzz::call_as<double>(const test_case&, const exact_answer&, library_answer&);
