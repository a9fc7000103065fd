// Anchors, bandwidths and the two-sample test of the tests; see verbs.hpp.
#include "verbs.hpp"

CRAFT_TEST_ANCHORS(template, double)
CRAFT_TEST_ANCHORS(template, float)
CRAFT_TEST_TWO_SAMPLE(template, double, craft::gaussian<>)
CRAFT_TEST_TWO_SAMPLE(template, float, craft::gaussian<>)
