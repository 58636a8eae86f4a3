// Loads a model that `skhgad export` wrote, with onnxruntime alone, and judges one picture.
//
//   c++ -std=c++17 inspect_picture.cpp -I ORT/include -L ORT/lib -lonnxruntime -o inspect_picture
//   ./inspect_picture model.onnx picture.ppm
//
// The picture is a binary PPM (P6) of 8 bits. Prints score, product and verdict, tab-separated.

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> rgb;  // row by row, three bytes a pixel
};

Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int64_t width = 0, height = 0, white = 0;
  file >> kind >> width >> height >> white;
  file.get();  // the one blank behind the header
  if (!file || kind != "P6" || white != 255 || width < 1 || height < 1)
    throw std::runtime_error(path + " is no binary PPM (P6) of 8 bits without comments.");
  if (width > 32768 || height > 32768)
    throw std::runtime_error(path + " is larger than this example reads.");
  Picture picture{height, width, std::vector<uint8_t>(3 * width * height)};
  file.read(reinterpret_cast<char*>(picture.rgb.data()), picture.rgb.size());
  if (!file) throw std::runtime_error(path + " ends too early.");
  return picture;
}

std::string property(const Ort::Session& session, const char* name) {
  Ort::AllocatorWithDefaultOptions allocator;
  auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated(name, allocator);
  if (!text) throw std::runtime_error("the model was not exported by skhgad.");
  return text.get();
}

// The items of a flat JSON list of strings or numbers, such as ["bolt", "nut"] or [-1.5, -2.0].
// Escapes within names stay as they are written.
std::vector<std::string> items(const std::string& json) {
  std::vector<std::string> found;
  std::string item;
  bool quoted = false;
  for (size_t i = 1; i < json.size(); ++i) {
    const char c = json[i];
    if (quoted && c == '\\') {
      item += c;
      item += json.at(++i);
    } else if (c == '"') {
      quoted = !quoted;
    } else if (!quoted && (c == ',' || c == ']')) {
      found.push_back(item);
      item.clear();
    } else if (quoted || c != ' ') {
      item += c;
    }
  }
  return found;
}

#ifdef _WIN32
std::wstring place(const char* path) { return std::wstring(path, path + std::string(path).size()); }
#else
std::string place(const char* path) { return path; }
#endif

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::cerr << "usage: " << argv[0] << " MODEL.onnx PICTURE.ppm\n";
    return 2;
  }
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "skhgad");
  Ort::Session session(env, place(argv[1]).c_str(), Ort::SessionOptions{});

  Picture picture = read_ppm(argv[2]);
  const std::array<int64_t, 4> shape{1, picture.height, picture.width, 3};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  Ort::Value image = Ort::Value::CreateTensor<uint8_t>(
      memory, picture.rgb.data(), picture.rgb.size(), shape.data(), shape.size());

  const std::array<const char*, 1> inputs{"image"};
  const std::array<const char*, 2> outputs{"score", "class_index"};  // and "map", if wanted
  auto found = session.Run(Ort::RunOptions{}, inputs.data(), &image, inputs.size(),
                           outputs.data(), outputs.size());
  const float score = found[0].GetTensorData<float>()[0];
  const int64_t index = found[1].GetTensorData<int64_t>()[0];

  const std::string product = items(property(session, "classes")).at(index);
  const double threshold = std::stod(items(property(session, "class_offsets")).at(index));
  std::cout << std::setprecision(9) << score << '\t' << product << '\t'
            << (score < threshold ? "anomaly" : "normal") << '\n';
  return 0;
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 1;
}
