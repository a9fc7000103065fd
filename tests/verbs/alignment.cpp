// The alignment losses and the objective of the tests; see verbs.hpp.
#include "verbs.hpp"

CRAFT_TEST_ALIGNMENT(template, double)
CRAFT_TEST_ALIGNMENT(template, float)
CRAFT_TEST_OBJECTIVE(template, double, craft::gaussians<>)
CRAFT_TEST_OBJECTIVE(template, float, craft::gaussians<>)
CRAFT_TEST_OBJECTIVE(template, double, craft_test::gaussians_and_multiquadric)
CRAFT_TEST_OBJECTIVE(template, float, craft_test::gaussians_and_multiquadric)
