// libcraft_align_torch: loading it registers torch.ops.craft.
#include "craft/adapters/torch_library.hpp"

#ifdef _WIN32
#define CRAFT_ENTRY extern "C" __declspec(dllexport)
#else
#define CRAFT_ENTRY extern "C" __attribute__((visibility("default")))
#endif

/// craft::runtime::stop_with, for craft_align: its own function, which knows Python's signals.
CRAFT_ENTRY void craft_stop_with(bool (*asked)());
void craft_stop_with(bool (*asked)()) { craft::runtime::stop_with(asked); }
