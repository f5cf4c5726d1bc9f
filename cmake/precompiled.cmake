# Headers that every test includes and that take seconds to parse: each build parses them once for all test
# programs. A file still includes what it uses, and builds with -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON too.
# Not for the rooms: behind precompiled headers g++ 12 warns of its own library's insides (GCC bug 105651).
if(VERNIER_TESTS)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/precompiled.cc CONTENT "")
  # Whoever reuses them needs the same flags, -fopenmp included. They link no room, so that a cache of objects
  # takes them for equal with and without CUDA.
  add_library(vernier_test_headers OBJECT ${CMAKE_BINARY_DIR}/precompiled.cc)
  target_link_libraries(vernier_test_headers PRIVATE
    vernier_options fmt::fmt nlohmann_json::nlohmann_json OpenMP::OpenMP_CXX GTest::gmock GTest::gtest)
  # As a program, not as a library.
  set_target_properties(vernier_test_headers PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(vernier_test_headers PRIVATE -fPIE ${VERNIER_TEST_FLAGS})
  target_precompile_headers(vernier_test_headers PRIVATE
    <gmock/gmock.h> <gtest/gtest.h> <algorithm> <cmath> <cstdint> <filesystem> <functional> <map> <memory>
    <numeric> <optional> <span> <string> <string_view> <unordered_map> <vector> <fmt/format.h>
    <nlohmann/json.hpp>)
endif()
