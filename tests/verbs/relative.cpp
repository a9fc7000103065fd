// Relative representations for every pair function of the tests; see verbs.hpp.
#include "verbs.hpp"

#define CRAFT_TEST_DEFINE(S, K) CRAFT_TEST_RELATIVE(template, S, K)
CRAFT_TEST_PAIR_FUNCTIONS(CRAFT_TEST_DEFINE)
