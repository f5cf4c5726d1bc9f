// What the tests of a search share: golden checkpoints, their text, a job over both.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "model/stored_model.h"
#include "model/test_network.h"
#include "search/sensitivity.h"

namespace vernier::search {

inline model::StoredModel open_golden(const std::string& name, const comm::Ranks* ranks = nullptr) {
  return model::open_checkpoint(model::golden_dir() / name / "checkpoint", ranks);
}

// A model of six layers and windows of its golden text, of 25 tokens each.
struct GoldenSubject {
  explicit GoldenSubject(const std::string& name, const comm::Ranks* ranks = nullptr)
      : stored(open_golden(name, ranks)) {
    const model::GoldenFile golden(model::golden_dir() / name / "golden.safetensors");
    const std::vector<int32_t> ids = golden.ids("input_ids");
    for (size_t first = 0; first + 25 <= ids.size(); first += 25) {
      windows.emplace_back(ids.begin() + static_cast<std::ptrdiff_t>(first),
                           ids.begin() + static_cast<std::ptrdiff_t>(first + 25));
    }
  }

  SensitivityJob job(const std::string& candidates) const {
    return {.model = *stored.model,
            .weights = *stored.weights,
            .candidates = parse_candidates(candidates),
            .windows = windows};
  }

  model::StoredModel stored;
  runtime::Windows windows;
};

}  // namespace vernier::search
