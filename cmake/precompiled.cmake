# Headers that half of the files include and that take seconds to parse: a build parses them once for all test
# programs. A file still includes what it uses, and builds with -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON too.
set(common_headers
  <algorithm> <cmath> <cstdint> <filesystem> <functional> <map> <memory> <numeric> <optional> <span>
  <string> <string_view> <unordered_map> <vector> <fmt/format.h> <nlohmann/json.hpp>)
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/precompiled.cc CONTENT "")

# vernier_headers(NAME LINKS target... FLAGS flag... HEADERS header...): the target whose precompiled headers
# others reuse, who need the same flags, -fopenmp included. It links no room, so that a cache of objects takes
# them for equal with and without CUDA.
function(vernier_headers name)
  cmake_parse_arguments(HEADERS "" "" "LINKS;FLAGS;HEADERS" ${ARGN})
  add_library(${name} OBJECT ${CMAKE_BINARY_DIR}/precompiled.cc)
  target_link_libraries(${name} PRIVATE
    vernier_options fmt::fmt nlohmann_json::nlohmann_json OpenMP::OpenMP_CXX ${HEADERS_LINKS})
  target_compile_options(${name} PRIVATE ${HEADERS_FLAGS})
  target_precompile_headers(${name} PRIVATE ${HEADERS_HEADERS} ${common_headers})
endfunction()

if(VERNIER_TESTS)
  vernier_headers(vernier_test_headers LINKS GTest::gmock GTest::gtest FLAGS -fPIE ${VERNIER_TEST_FLAGS}
    HEADERS <gmock/gmock.h> <gtest/gtest.h>)
  # As a program, not as a library.
  set_target_properties(vernier_test_headers PROPERTIES POSITION_INDEPENDENT_CODE OFF)
endif()

vernier_headers(vernier_room_headers)
