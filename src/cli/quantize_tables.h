// What `vernier quantize` shows before and after its work.
#pragma once

#include <string>

#include "base/phases.h"
#include "calib/quantize_model.h"
#include "io/checkpoint.h"
#include "quant/plan.h"
#include "runtime/layer_stream.h"
#include "runtime/layout_plan.h"
#include "runtime/memory_plan.h"

namespace vernier::cli {

// Every module with its format and the rule that decided, and every rule with its count. Tables are
// at most `width` wide.
std::string coverage_tables(const quant::QuantPlan& plan, const model::ModuleTree& tree, int width);

// Memory, bytes and time that the job will take.
std::string plan_summary(const quant::QuantPlan& plan, const runtime::MemoryPlan& memory,
                         const io::Checkpoint& checkpoint, const runtime::Windows& windows);

// What the layout of several ranks takes of each, and how long the job would run on H100s.
std::string layout_summary(const runtime::LayoutPlan& plan);

// Signal-to-noise ratio, saturated and flushed values by family of modules, the worst modules,
// experts without tokens, defaulted scales.
std::string report_tables(const calib::QuantizeReport& report, int width);

// How long the job took, its phases, and the most device memory it held.
std::string time_summary(double seconds, const PhaseTimes& phases, const Device* device);

// A text that differs when two plans would give different bytes.
std::string plan_fingerprint(const quant::QuantPlan& plan);

}  // namespace vernier::cli
