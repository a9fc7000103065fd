# The version stands in CMakeLists.txt. Where a text has to repeat it (a recipe, a tag to fetch, a package to find), it must
# agree.
cmake_minimum_required(VERSION 3.21)
set(wrong)

# Those that must state it: states(FILE REGEX), with the version in the first parentheses, in the first line that matches.
function(states file regex)
  file(STRINGS "${source}/${file}" lines REGEX "${regex}")
  list(APPEND lines "")
  list(GET lines 0 line)
  if(NOT line MATCHES "${regex}")
    set(wrong ${wrong} "${file}: does not say" PARENT_SCOPE)
  elseif(NOT CMAKE_MATCH_1 STREQUAL version)
    set(wrong ${wrong} "${file}: ${CMAKE_MATCH_1}" PARENT_SCOPE)
  endif()
endfunction()
states(CHANGELOG.md "^## \\[([0-9.]+)\\]")
states(cmake/packaging/vcpkg/craft/vcpkg.json "^  \"version\": \"([0-9.]+)\"")
states(cmake/packaging/spack/spack_repo/craft/packages/craft/package.py "^ +version\\(\"([0-9.]+)\"")
states(cmake/packaging/conda/recipe.yaml "^  version: \"([0-9.]+)\"")

# Those that may: `craft 0.1`, `craft/0.1.0`, `craft@0.1.0`, `GIT_TAG v0.1.0` and the like.
file(GLOB_RECURSE files "${source}/include/*.hpp" "${source}/docs/*.md" "${source}/examples/*" "${source}/cmake/*"
     "${source}/README.md")
list(FILTER files INCLUDE REGEX "\\.(hpp|cpp|md|txt|in|py|json|yaml|cmake)$|/usage$")
set(stated_as "(craft|CRAFT_VERSION|GIT_TAG)[] (\"/@=>-]*(VERSION )?v?([0-9]+\\.[0-9]+(\\.[0-9]+)?)")
foreach(file IN LISTS files)
  file(STRINGS "${file}" lines REGEX "${stated_as}")
  foreach(line IN LISTS lines)
    string(REGEX MATCH "${stated_as}" match "${line}")
    set(stated "${CMAKE_MATCH_3}")
    string(FIND "${version}." "${stated}." at)
    if(NOT at EQUAL 0)
      list(APPEND wrong "${file}: ${stated}")
    endif()
  endforeach()
endforeach()

if(wrong)
  list(JOIN wrong "\n  " wrong)
  message(FATAL_ERROR "CMakeLists.txt says ${version}, but\n  ${wrong}")
endif()
