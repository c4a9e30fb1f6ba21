// Package api is what the roles' HTTP routes share: who may do what, how an
// error looks, and one huma API on one mux.
//
// A role declares each route with its verb in one line (Register), so that no
// route can be served without saying who may call it. Package api knows no
// task, letter or replay. It never enables CORS: the API is for programs.
package api
