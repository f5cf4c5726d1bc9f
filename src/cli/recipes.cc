// vernier recipes: the shipped recipes, or the rules of one.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "cli/command.h"
#include "quant/recipe.h"
#include "report/table.h"

namespace vernier::cli {
namespace {

std::string action_of(const quant::Rule& rule) {
  if (!rule.enable) return "off";
  if (!rule.config) return "on";
  std::string action(rule.config->format->name);
  if (rule.config->four_over_six) {
    action += " four-over-six";
  } else if (rule.config->is_static) {
    action += " static";
  }
  return rule.config->use_constant_amax ? action + " cast" : action;
}

std::string describe(const quant::Algorithm& algorithm) {
  if (algorithm.method == quant::AlgorithmMethod::kMax) return "max";
  if (algorithm.fp8_scale_sweep) return "mse: sweep over all 126 block scales";
  return fmt::format("mse: multipliers {} to {} in steps of {}", algorithm.start, algorithm.stop,
                     algorithm.step);
}

void list_all(Console& console) {
  std::vector<std::vector<std::string>> rows;
  for (const quant::RecipeSummary& recipe : quant::list_recipes()) {
    rows.push_back({recipe.name, recipe.description});
  }
  console.print(report::format_table(
      {{"recipe", report::Align::kLeft}, {"what it does", report::Align::kLeft, true}}, rows,
      console.table_width()));
  console.print("Show one: vernier recipes NAME. Your own: vernier quantize --recipe FILE.");
}

void show(const std::string& name, Console& console) {
  const quant::Recipe recipe = quant::load_recipe(name);
  console.print(fmt::format("{}: {}\nscales: {}", recipe.name, recipe.description,
                            describe(recipe.algorithm)));
  std::vector<std::vector<std::string>> rows;
  for (const quant::Rule& rule : recipe.rules) {
    rows.push_back({rule.pattern, rule.parent_class, action_of(rule), rule.origin});
  }
  console.print(report::format_table({{"quantizer", report::Align::kLeft},
                                      {"class", report::Align::kLeft},
                                      {"does", report::Align::kLeft},
                                      {"from", report::Align::kLeft, true}},
                                     rows, console.table_width()));
  console.print("Rules apply in order; the last that matches a quantizer decides.");
}

}  // namespace

Action declare_recipes(CLI::App& app) {
  auto name = std::make_shared<std::string>();
  app.add_option("name", *name, "show the rules of this recipe (a name or a file)");
  return [name](Console& console, const comm::Communicator&) {
    name->empty() ? list_all(console) : show(*name, console);
    return 0;
  };
}

}  // namespace vernier::cli
