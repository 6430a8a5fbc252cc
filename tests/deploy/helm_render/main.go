// Renders a chart as `helm template` does, for tests where Helm is not to be had: the same template
// engine (Go's text/template) and the same functions (sprig), and of Helm's own include, toYaml,
// required, .Files.Get and the built-in objects.
//
//	helm_render CHART RELEASE [VALUES.yaml]   prints the documents; exit 1 with one line on an error
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v3"
)

type values = map[string]interface{}

type files struct{ root string }

func (f files) Get(name string) string {
	text, _ := os.ReadFile(filepath.Join(f.root, name))
	return string(text)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func readYaml(path string) values {
	text, err := os.ReadFile(path)
	fail(err)
	out := values{}
	fail(yaml.Unmarshal(text, &out))
	return out
}

// Helm reads values by way of JSON, where every number is a float64.
func asJson(value interface{}) interface{} {
	switch typed := value.(type) {
	case int:
		return float64(typed)
	case values:
		for key := range typed {
			typed[key] = asJson(typed[key])
		}
	case []interface{}:
		for i := range typed {
			typed[i] = asJson(typed[i])
		}
	}
	return value
}

// Values of over win; maps are merged key by key.
func merge(base, over values) {
	for key, value := range over {
		inner, ok := value.(values)
		old, was := base[key].(values)
		if ok && was {
			merge(old, inner)
		} else {
			base[key] = value
		}
	}
}

func toYaml(value interface{}) string {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	fail(encoder.Encode(value))
	return strings.TrimSuffix(out.String(), "\n")
}

func main() {
	if len(os.Args) < 3 {
		fail(fmt.Errorf("usage: helm_render CHART RELEASE [VALUES.yaml]"))
	}
	chart, release := os.Args[1], os.Args[2]
	all := readYaml(filepath.Join(chart, "values.yaml"))
	if len(os.Args) > 3 {
		merge(all, readYaml(os.Args[3]))
	}
	asJson(all)
	facts := values{}
	for key, value := range readYaml(filepath.Join(chart, "Chart.yaml")) {
		facts[strings.ToUpper(key[:1])+key[1:]] = value
	}
	root := template.New("chart").Option("missingkey=zero").Funcs(sprig.TxtFuncMap())
	root.Funcs(template.FuncMap{
		"toYaml": toYaml,
		"include": func(name string, data interface{}) (string, error) {
			var out bytes.Buffer
			err := root.ExecuteTemplate(&out, name, data)
			return out.String(), err
		},
		"required": func(message string, value interface{}) (interface{}, error) {
			if value == nil || value == "" {
				return nil, fmt.Errorf("%s", message)
			}
			return value, nil
		},
	})
	paths, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	fail(err)
	sort.Strings(paths)
	base := filepath.Base(chart) + "/templates"
	for _, path := range paths {
		text, err := os.ReadFile(path)
		fail(err)
		_, err = root.New(base + "/" + filepath.Base(path)).Parse(string(text))
		fail(err)
	}
	for _, path := range paths {
		name := base + "/" + filepath.Base(path)
		data := values{
			"Values": all, "Chart": facts, "Files": files{chart},
			"Release":  values{"Name": release, "Namespace": "default", "Service": "Helm"},
			"Template": values{"BasePath": base, "Name": name},
		}
		var out bytes.Buffer
		fail(root.ExecuteTemplate(&out, name, data))
		if strings.HasSuffix(path, ".yaml") && strings.TrimSpace(out.String()) != "" {
			fmt.Printf("---\n# %s\n%s\n", name, out.String())
		}
	}
}
