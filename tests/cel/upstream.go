// Evaluates expressions with cel-go, and reads the conformance tests of cel-spec.
//
//	upstream conformance FOLDER    writes the tests of a folder of text protocol buffers, a line of JSON each
//	upstream evaluate              reads lines {"expression", "variables"} and writes a result for each
//
// A value is written with its type, so that 1 and 1u differ: see value.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"cel.dev/expr"
	_ "cel.dev/expr/conformance/proto2"
	_ "cel.dev/expr/conformance/proto3"
	"cel.dev/expr/conformance/test"
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"
	"google.golang.org/protobuf/encoding/prototext"
)

type object = map[string]any

// A result is a value, or the stage that failed.
type result struct {
	Value  any    `json:"value,omitempty"`
	Failed string `json:"failed,omitempty"`
	Error  string `json:"error,omitempty"`
}

func main() {
	output := bufio.NewWriter(os.Stdout)
	defer output.Flush()
	writer := json.NewEncoder(output)
	writer.SetEscapeHTML(false)
	switch {
	case len(os.Args) == 3 && os.Args[1] == "conformance":
		conformance(os.Args[2], writer)
	case len(os.Args) == 2 && os.Args[1] == "evaluate":
		evaluate(writer)
	default:
		fail(fmt.Errorf("usage: upstream conformance FOLDER | upstream evaluate"))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func check(err error) {
	if err != nil {
		fail(err)
	}
}

// value returns a value of the conformance tests with its type.
func value(v *expr.Value) any {
	switch kind := v.GetKind().(type) {
	case *expr.Value_NullValue:
		return object{"null": true}
	case *expr.Value_BoolValue:
		return object{"bool": kind.BoolValue}
	case *expr.Value_Int64Value:
		return object{"int": strconv.FormatInt(kind.Int64Value, 10)}
	case *expr.Value_Uint64Value:
		return object{"uint": strconv.FormatUint(kind.Uint64Value, 10)}
	case *expr.Value_DoubleValue:
		if math.IsNaN(kind.DoubleValue) {
			return object{"double": "NaN"}
		}
		return object{"double": fmt.Sprintf("%016x", math.Float64bits(kind.DoubleValue))}
	case *expr.Value_StringValue:
		return object{"string": kind.StringValue}
	case *expr.Value_BytesValue:
		return object{"bytes": fmt.Sprintf("%x", kind.BytesValue)}
	case *expr.Value_TypeValue:
		return object{"type": kind.TypeValue}
	case *expr.Value_ListValue:
		list := []any{}
		for _, element := range kind.ListValue.GetValues() {
			list = append(list, value(element))
		}
		return object{"list": list}
	case *expr.Value_MapValue:
		entries := [][2]any{}
		for _, entry := range kind.MapValue.GetEntries() {
			entries = append(entries, [2]any{value(entry.GetKey()), value(entry.GetValue())})
		}
		sort.Slice(entries, func(i, j int) bool { return text(entries[i][0]) < text(entries[j][0]) })
		return object{"map": entries}
	default:
		return object{"message": true}
	}
}

func text(value any) string {
	written, err := json.Marshal(value)
	check(err)
	return string(written)
}

func conformance(folder string, writer *json.Encoder) {
	files, err := filepath.Glob(filepath.Join(folder, "*.textproto"))
	check(err)
	if len(files) == 0 {
		fail(fmt.Errorf("no tests in %s", folder))
	}
	for _, name := range files {
		written, err := os.ReadFile(name)
		check(err)
		file := &test.SimpleTestFile{}
		check(prototext.Unmarshal(written, file))
		for _, section := range file.GetSection() {
			for _, one := range section.GetTest() {
				line := object{
					"name":       strings.Join([]string{file.GetName(), section.GetName(), one.GetName()}, "/"),
					"expression": one.GetExpr(),
					"container":  one.GetContainer(),
					"macros":     !one.GetDisableMacros(),
				}
				bindings := object{}
				for variable, bound := range one.GetBindings() {
					bindings[variable] = value(bound.GetValue())
				}
				line["bindings"] = bindings
				switch matcher := one.GetResultMatcher().(type) {
				case nil:
					line["expected"] = result{Value: object{"bool": true}}
				case *test.SimpleTest_Value:
					line["expected"] = result{Value: value(matcher.Value)}
				case *test.SimpleTest_TypedResult:
					line["expected"] = result{Value: value(matcher.TypedResult.GetResult())}
					if matcher.TypedResult.GetResult() == nil {
						line["expected"] = result{Failed: "unknown"}
					}
				case *test.SimpleTest_EvalError, *test.SimpleTest_AnyEvalErrors:
					line["expected"] = result{Failed: "evaluation"}
				default:
					line["expected"] = result{Failed: "unknown"}
				}
				check(writer.Encode(line))
			}
		}
	}
}

func evaluate(writer *json.Encoder) {
	env, err := cel.NewEnv(
		cel.OptionalTypes(),
		ext.Strings(),
		cel.Variable("image", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("annotations", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("params", cel.DynType),
		cel.Variable("request", cel.DynType),
		cel.Variable("object", cel.DynType),
	)
	check(err)
	programs := map[string]cel.Program{}
	failed := map[string]string{}
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 1<<20)
	for input.Scan() {
		var line struct {
			Expression string
			Variables  object
		}
		check(json.Unmarshal(input.Bytes(), &line))
		program, known := programs[line.Expression]
		if _, wrong := failed[line.Expression]; !known && !wrong {
			tree, issues := env.Compile(line.Expression)
			if issues.Err() != nil {
				failed[line.Expression] = issues.Err().Error()
			} else {
				program, err = env.Program(tree)
				check(err)
				programs[line.Expression] = program
			}
		}
		if message, wrong := failed[line.Expression]; wrong {
			check(writer.Encode(result{Failed: "compilation", Error: message}))
			continue
		}
		found, _, err := program.Eval(line.Variables)
		if err != nil {
			check(writer.Encode(result{Failed: "evaluation", Error: err.Error()}))
			continue
		}
		written, err := cel.ValueAsProto(found)
		if err != nil {
			check(writer.Encode(result{Value: object{"message": true}}))
			continue
		}
		check(writer.Encode(result{Value: value(written)}))
	}
	check(input.Err())
}
