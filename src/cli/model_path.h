// Where a model is: a directory, or an id in the local Hugging Face cache.
#pragma once

#include <filesystem>
#include <string>

namespace vernier::cli {

// `model` if it is a directory; else, for "org/name", the cached snapshot of its main revision
// under $HF_HUB_CACHE, $HF_HOME/hub or ~/.cache/huggingface/hub. Nothing is ever downloaded. Throws
// NotFound naming what was tried.
std::filesystem::path find_model(const std::string& model);

// The last component of a model's name, for default output names: "org/Name/" -> "Name".
std::string model_base_name(const std::string& model);

}  // namespace vernier::cli
