// Everything. Single headers may be included on their own.
#pragma once

#include "craft/alignment.hpp"
#include "craft/anchors.hpp"
#include "craft/any_device.hpp"
#include "craft/bandwidth.hpp"
#include "craft/context.hpp"
#include "craft/error.hpp"
#include "craft/gradcheck.hpp"
#include "craft/kernels.hpp"
#include "craft/mmd.hpp"
#include "craft/objective.hpp"
#include "craft/relative.hpp"
#include "craft/two_sample.hpp"
#include "craft/view.hpp"
