// Answers requests with a SavedModel as a stock TensorFlow Serving binary does: the same loader and session, XLA compilation
// switched off, and of tensorflow-text only the op libraries that are named.
//
// usage: consumer SAVED_MODEL SIGNATURE REQUESTS ANSWERS [OP_LIBRARY.so ...]
//
// REQUESTS and ANSWERS are TFRecord files of serialised NamedTensorProto: a request is one record for each input of the signature,
// an answer one record for each output, so that every byte of every string survives. Build command: export/consumers.py.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/compiler/jit/flags.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/lib/io/record_reader.h"
#include "tensorflow/core/lib/io/record_writer.h"
#include "tensorflow/core/protobuf/meta_graph.pb.h"
#include "tensorflow/core/protobuf/named_tensor.pb.h"

namespace {

using tensorflow::NamedTensorProto;
using tensorflow::SignatureDef;
using tensorflow::Tensor;

absl::Status LoadOpLibrary(const char* path) {
  std::unique_ptr<TF_Status, void (*)(TF_Status*)> status(TF_NewStatus(), TF_DeleteStatus);
  TF_LoadLibrary(path, status.get());  // the handle lives as long as the process
  if (TF_GetCode(status.get()) == TF_OK) return absl::OkStatus();
  return absl::InternalError(std::string(path) + ": " + TF_Message(status.get()));
}

// One request: a record for each input, in any order. OUT_OF_RANGE at the end of the file.
absl::Status ReadRequest(const SignatureDef& signature, tensorflow::io::SequentialRecordReader* reader,
                         std::vector<std::pair<std::string, Tensor>>* feeds) {
  feeds->clear();
  for (int i = 0; i < signature.inputs_size(); ++i) {
    tensorflow::tstring record;
    TF_RETURN_IF_ERROR(reader->ReadRecord(&record));
    NamedTensorProto named;
    if (!named.ParseFromArray(record.data(), record.size())) return absl::DataLossError("a record is no NamedTensorProto");
    const auto input = signature.inputs().find(named.name());
    if (input == signature.inputs().end()) return absl::InvalidArgumentError("the signature has no input " + named.name());
    Tensor tensor;
    if (!tensor.FromProto(named.tensor())) return absl::InvalidArgumentError("input " + named.name() + " is no valid tensor");
    feeds->emplace_back(input->second.name(), std::move(tensor));
  }
  return absl::OkStatus();
}

absl::Status Answer(const std::string& directory, const std::string& signature_name, const std::string& requests,
                    const std::string& answers) {
  const auto start = std::chrono::steady_clock::now();
  tensorflow::SavedModelBundle bundle;
  TF_RETURN_IF_ERROR(tensorflow::LoadSavedModel(tensorflow::SessionOptions(), tensorflow::RunOptions(), directory,
                                                {"serve"}, &bundle));
  const auto found = bundle.meta_graph_def.signature_def().find(signature_name);
  if (found == bundle.meta_graph_def.signature_def().end()) {
    return absl::NotFoundError("the SavedModel has no signature " + signature_name);
  }
  const SignatureDef& signature = found->second;
  if (signature.inputs().empty()) return absl::InvalidArgumentError("the signature " + signature_name + " has no inputs");
  std::vector<std::string> names, fetches;
  for (const auto& [name, info] : signature.outputs()) {
    names.push_back(name);
    fetches.push_back(info.name());
  }
  const std::chrono::duration<double> loading = std::chrono::steady_clock::now() - start;
  std::printf("loaded in %.2f s\n", loading.count());

  std::unique_ptr<tensorflow::RandomAccessFile> input;
  TF_RETURN_IF_ERROR(tensorflow::Env::Default()->NewRandomAccessFile(requests, &input));
  tensorflow::io::SequentialRecordReader reader(input.get());
  std::unique_ptr<tensorflow::WritableFile> output;
  TF_RETURN_IF_ERROR(tensorflow::Env::Default()->NewWritableFile(answers, &output));
  tensorflow::io::RecordWriter writer(output.get());
  std::vector<std::pair<std::string, Tensor>> feeds;
  std::vector<Tensor> results;
  while (true) {
    const absl::Status read = ReadRequest(signature, &reader, &feeds);
    if (absl::IsOutOfRange(read)) break;
    TF_RETURN_IF_ERROR(read);
    TF_RETURN_IF_ERROR(bundle.session->Run(feeds, fetches, {}, &results));
    for (size_t i = 0; i < names.size(); ++i) {
      NamedTensorProto named;
      named.set_name(names[i]);
      results[i].AsProtoField(named.mutable_tensor());
      TF_RETURN_IF_ERROR(writer.WriteRecord(named.SerializeAsString()));
    }
  }
  TF_RETURN_IF_ERROR(writer.Close());
  return output->Close();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: consumer SAVED_MODEL SIGNATURE REQUESTS ANSWERS [OP_LIBRARY.so ...]\n");
    return 2;
  }
  // What tensorflow_model_server does unless it is started with --xla_cpu_compilation_enabled.
  tensorflow::DisableXlaCompilation();
  absl::Status status;
  for (int i = 5; i < argc && status.ok(); ++i) status = LoadOpLibrary(argv[i]);
  if (status.ok()) status = Answer(argv[1], argv[2], argv[3], argv[4]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
