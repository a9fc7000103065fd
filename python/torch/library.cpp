// libcraft_align_torch: loading it registers torch.ops.craft.
#include "craft/adapters/torch_library.hpp"
