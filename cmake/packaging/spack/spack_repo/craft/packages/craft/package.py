from spack_repo.builtin.build_systems.cmake import CMakePackage

from spack.package import *


class Craft(CMakePackage):
    """Cross-modal alignment losses with analytic gradients: C++17 headers."""

    homepage = "https://arxiv.org/abs/2407.15894"
    license("MIT")

    version("0.1.0")  # of a checkout, by `spack develop`: it has no address to be fetched from

    variant("openmp", default=True, description="Use OpenMP where the consumer's compiler has it")
    variant("cuda", default=False, description="The component cuda: headers for NVIDIA GPUs")

    depends_on("cxx", type="build")
    depends_on("cmake@3.21:", type="build")
    depends_on("eigen@3.4:")
    depends_on("cuda@12:", when="+cuda")

    sanity_check_is_file = ["include/craft/craft.hpp", "share/cmake/craft/craft-config.cmake"]

    def cmake_args(self):
        return [
            self.define("CRAFT_TESTS", False),
            self.define("CRAFT_EXAMPLES", False),
            self.define_from_variant("CRAFT_OPENMP", "openmp"),
            self.define_from_variant("CRAFT_CUDA", "cuda"),
        ]
