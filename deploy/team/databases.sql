-- What MLflow, its accounts and Prefect keep, each on its own.
create database mlflow;
create database accounts;
create database prefect;
