# Runs what the pages say about linking: every folder here with a CMakeLists.txt is a project in which such lines stand. It
# is configured with craft installed, and with the sources at craft and third_party/craft; then built, its trainer run.
#   cmake -D source=PROJECT -D build=ITS_BUILD -D work=DIR -D generator=G -D compiler=CXX -D standard=17 -P link_it.cmake
cmake_minimum_required(VERSION 3.21)
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  message("${output}")
  if(NOT status EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command}: ${status}")
  endif()
endfunction()

file(REMOVE_RECURSE "${work}")
run("${CMAKE_COMMAND}" --install "${build}" --prefix "${work}/prefix")
file(GLOB projects RELATIVE "${source}/tests/docs" "${source}/tests/docs/*/CMakeLists.txt")
foreach(project IN LISTS projects)
  get_filename_component(project "${project}" DIRECTORY)
  file(COPY "${source}/tests/docs/${project}" DESTINATION "${work}")
  file(WRITE "${work}/${project}/trainer.cpp"
       "#include <craft/view.hpp>\nint main() { return craft::matrix_view<float>().empty() ? 0 : 1; }\n")
  file(MAKE_DIRECTORY "${work}/${project}/third_party")
  file(CREATE_LINK "${source}" "${work}/${project}/craft" SYMBOLIC)
  file(CREATE_LINK "${source}" "${work}/${project}/third_party/craft" SYMBOLIC)
  run("${CMAKE_COMMAND}" -S "${work}/${project}" -B "${work}/${project}_build" -G "${generator}"
      "-DCMAKE_CXX_COMPILER=${compiler}" "-DCMAKE_CXX_STANDARD=${standard}" "-DCMAKE_PREFIX_PATH=${work}/prefix")
  run("${CMAKE_COMMAND}" --build "${work}/${project}_build")
  run("${work}/${project}_build/trainer")
endforeach()
