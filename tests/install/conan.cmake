# conan create, in a home of its own and without a remote: Eigen is a stand-in that points at the one of this build.
# The recipe's test_package builds and runs consumer/.
cmake_minimum_required(VERSION 3.21)
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
file(REMOVE_RECURSE "${work}")
set(ENV{CONAN_HOME} "${work}/home")
set(ENV{CXX} "${compiler}")
file(WRITE "${work}/eigen/conanfile.py" "from conan import ConanFile


class Eigen(ConanFile):
    name, version, package_type = 'eigen', '3.4.0', 'header-library'

    def package_info(self):
        self.cpp_info.includedirs = ['${eigen}']
        self.cpp_info.bindirs = self.cpp_info.libdirs = []
        self.cpp_info.set_property('cmake_file_name', 'Eigen3')
        self.cpp_info.set_property('cmake_target_name', 'Eigen3::Eigen')
")
run("${conan}" profile detect)
run("${conan}" create "${work}/eigen" --no-remote)
run("${conan}" create "${source}/cmake/packaging/conan" --no-remote --build=missing
    -c "tools.cmake.cmake_layout:test_folder=${work}/test_package" -s compiler.cppstd=${standard})
if(NOT output MATCHES "craft/${version}" OR NOT output MATCHES "MMD\\^2 = 1.264241")
  message(FATAL_ERROR "the package has not version ${version}, or its consumer did not run")
endif()
# One package for all compilers: nothing is built again for another standard.
run("${conan}" install --requires=craft/${version} --no-remote --build=never -s compiler.cppstd=20 -s build_type=Debug)
refused("Current cppstd \\(14\\) is lower" "${conan}" install --requires=craft/${version} --no-remote --build=never
        -s compiler.cppstd=14)
