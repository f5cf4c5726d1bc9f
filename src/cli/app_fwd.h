// CLI11's application, for headers that only name it: its own header is slow to compile.
#pragma once

namespace CLI {
class App;
}
