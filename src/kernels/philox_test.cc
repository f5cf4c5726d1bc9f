#include "kernels/philox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/random.h"

namespace vernier::kernels {
namespace {

using testing::ElementsAre;

// Known answers of the generator's authors (Random123, kat_vectors): zeros, ones, digits of pi.
TEST(Philox, MatchesTheAuthorsVectors) {
  EXPECT_THAT(philox({}, 0).words, ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  EXPECT_THAT(philox({{~0u, ~0u, ~0u, ~0u}}, ~uint64_t{0}).words,
              ElementsAre(0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu));
  EXPECT_THAT(
      philox({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0x299f31d0a4093822u).words,
      ElementsAre(0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u));
}

TEST(Philox, IsTheGeneratorOfBase) {
  for (const uint64_t seed : {uint64_t{0}, uint64_t{42}, uint64_t{0x123456789abcdef}}) {
    for (const uint64_t position : {uint64_t{0}, uint64_t{7}, uint64_t{1} << 40}) {
      const PhiloxWords counter = {
          {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 3, 0}};
      EXPECT_EQ(philox(counter, seed).words[0], random_bits(seed, 3, position));
    }
  }
}

TEST(Philox, EveryPartOfASignsPlaceCounts) {
  const uint64_t far = uint64_t{1} << 32;
  std::set<uint32_t> firsts;
  for (const PhiloxWords& signs :
       {probe_signs(1, 2, 3), probe_signs(2, 2, 3), probe_signs(1, 3, 3), probe_signs(1, 2, 4),
        probe_signs(1 + far, 2, 3), probe_signs(1, 2 + far, 3)}) {
    firsts.insert(signs.words[0]);
  }
  EXPECT_EQ(firsts.size(), 6u);
}

}  // namespace
}  // namespace vernier::kernels
