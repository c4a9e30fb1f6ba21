package lettertest

// What the package's own program gives to worker.Main.

import (
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"go/types"
	"path/filepath"
	"strconv"
	"strings"
)

// workerPackage is where Main is.
const workerPackage = "github.com/perdure/perdure/worker"

// SetupIn returns what the package in dir gives to worker.Main, as source that a test
// of the package can say too; "" where it calls it nowhere, or gives it what only the
// caller has, such as a variable of main.
func SetupIn(dir string) string {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return ""
	}
	set, known := token.NewFileSet(), map[string]bool{}
	var calls []ast.Expr
	for _, name := range files {
		f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil || strings.HasSuffix(name, "_test.go") {
			continue
		}
		declared(f, known)
		calls = append(calls, mainCalls(f)...)
	}
	if len(calls) != 1 || !everywhere(calls[0], known) {
		return ""
	}
	var b strings.Builder
	if err := printer.Fprint(&b, set, calls[0]); err != nil || strings.ContainsAny(b.String(), "\r\n") {
		return ""
	}
	return b.String()
}

// declared adds the names of a file that all of its package sees.
func declared(f *ast.File, known map[string]bool) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				known[d.Name.Name] = true
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					known[s.Name.Name] = true
				case *ast.ValueSpec:
					for _, n := range s.Names {
						known[n.Name] = true
					}
				}
			}
		}
	}
}

// mainCalls are the arguments of the file's calls of worker.Main.
func mainCalls(f *ast.File) (args []ast.Expr) {
	local := ""
	for _, i := range f.Imports {
		if path, err := strconv.Unquote(i.Path.Value); err == nil && path == workerPackage {
			local = "worker"
			if i.Name != nil {
				local = i.Name.Name
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) != 1 {
			return true
		}
		if s, ok := call.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Main" {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == local {
				args = append(args, call.Args[0])
			}
		}
		return true
	})
	return args
}

// everywhere reports whether an expression is made of the package's own names alone.
func everywhere(e ast.Expr, known map[string]bool) bool {
	ok := true
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			ok = false // of any length
		case *ast.SelectorExpr: // its own name is the left side's
			ok = ok && everywhere(n.X, known)
			return false
		case *ast.KeyValueExpr: // a field's name is the type's
			ok = ok && everywhere(n.Value, known)
			return false
		case *ast.Ident:
			ok = ok && (known[n.Name] || types.Universe.Lookup(n.Name) != nil)
		}
		return ok
	})
	return ok
}
