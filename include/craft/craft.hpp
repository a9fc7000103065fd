// Everything: the verbs by verbs.hpp, and the rest. Single headers may be included on their own.
#pragma once

#include "craft/alignment_gradients.hpp"
#include "craft/any_device.hpp"
#include "craft/context.hpp"
#include "craft/error.hpp"
#include "craft/gradcheck.hpp"
#include "craft/kernels.hpp"
#include "craft/mmd_options.hpp"
#include "craft/mmd_presets.hpp"
#include "craft/rehearsal.hpp"
#include "craft/verbs.hpp"
#include "craft/view.hpp"
