// MMD for every pair function of the tests; see verbs.hpp.
#include "verbs.hpp"

#define CRAFT_TEST_DEFINE(S, K) CRAFT_TEST_MMD(template, S, K)
CRAFT_TEST_PAIR_FUNCTIONS(CRAFT_TEST_DEFINE)
CRAFT_TEST_SUMS_FOR_MMD(CRAFT_TEST_DEFINE)
