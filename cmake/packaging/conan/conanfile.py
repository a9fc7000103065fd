"""craft's recipe for Conan 2: packs the tree in which it lies."""

import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load, rmdir

TREE = os.path.join("..", "..", "..")  # from this folder


class CraftConan(ConanFile):
    name = "craft"
    description = "Cross-modal alignment losses with analytic gradients (headers)"
    license = "MIT"
    homepage = "https://arxiv.org/abs/2407.15894"
    topics = ("machine-learning", "mmd", "contrastive-learning", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"cuda": [True, False]}  # the component cuda, which needs the CUDA toolkit of the system
    default_options = {"cuda": False}
    no_copy_source = True

    def set_version(self):
        text = load(self, os.path.join(self.recipe_folder, TREE, "CMakeLists.txt"))
        self.version = re.search(r"^project\(craft VERSION ([0-9.]+)", text, re.MULTILINE).group(1)

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "cmake/*.in", "include/*", "cuda/*"):
            copy(self, pattern, os.path.join(self.recipe_folder, TREE), self.export_sources_folder)

    def layout(self):
        cmake_layout(self)

    def requirements(self):
        self.requires("eigen/[>=3.4.0 <6]", transitive_headers=True)

    def validate(self):
        if self.settings.get_safe("compiler.cppstd"):
            check_min_cppstd(self, 17)

    def package_id(self):
        # Headers: the same for every compiler.
        self.info.settings.clear()
        self.info.requires.clear()

    def generate(self):
        CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        toolchain.user_presets_path = False
        toolchain.cache_variables["CRAFT_TESTS"] = False
        toolchain.cache_variables["CRAFT_EXAMPLES"] = False
        toolchain.cache_variables["CRAFT_CUDA"] = bool(self.options.cuda)
        toolchain.generate()

    def build(self):
        CMake(self).configure()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        rmdir(self, os.path.join(self.package_folder, "share", "doc"))

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        # CMake finds the installed craft-config.cmake, which knows the components.
        self.cpp_info.builddirs = [os.path.join("share", "cmake", "craft")]
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.set_property("pkg_config_name", "craft")
