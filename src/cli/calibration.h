// The flags that name a calibration text, and the windows they mean.
#pragma once

#include <cstdint>
#include <string>

#include "cli/app_fwd.h"
#include "cli/console.h"
#include "model/stored_model.h"
#include "runtime/layer_stream.h"

namespace vernier::cli {

struct CalibrationFlags {
  std::string dataset;
  int64_t size = 512;
  int64_t seq_length = 512;
  int64_t batch_size = 0;  // 0: chosen by the planner
  std::string seed;        // empty: documents in their order
};

void declare_calibration_flags(CLI::App& app, CalibrationFlags& flags);

// Tells when the text in the program is used, or when a text is shorter than what was asked for.
runtime::Windows read_calibration(const CalibrationFlags& flags, const model::StoredModel& source,
                                  Console& console);

}  // namespace vernier::cli
